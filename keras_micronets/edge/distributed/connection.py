"""The MQTT client: all that paho-mqtt is used for."""

import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from .broker import Broker
from .message import MAX_PAYLOAD, Message

log = logging.getLogger(__name__)

#: Seconds for which the broker keeps what comes for us while we are away.
SESSION_SECONDS = 60
#: Seconds for the first connection.
PATIENCE = 10.0
RECONNECT_SECONDS = (0.25, 4)
#: The most messages on their way to the broker at a time.
IN_FLIGHT = 100


class Connection:
    """Keep a connection to a broker, with MQTT 5 and quality of service 1.

    The first connection succeeds or raises; later ones are tried again for ever, and
    the session with its subscriptions lasts over a break of a minute.

    Args:
        broker: The broker.
        name: Our name. The client id is that and something random: whoever knew it
            could disconnect us.
        topics: What to listen to.
        will: What the broker says for us when we are lost. Defaults to `None`.
        on_message: Called with every `Message`, in the client's thread.
        on_up: Called at every connection, once what is said comes through.

    Attributes:
        up: Whether the connection stands.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        topics: Sequence[str],
        *,
        will: Message | None = None,
        on_message: Callable[[Message], None],
        on_up: Callable[[], None],
    ):
        self.up, self._failed = False, ""
        self._name = name
        self._broker, self._topics = broker, topics
        self._on_message, self._on_up = on_message, on_up
        self._settled, self._closing, self._refused = threading.Event(), False, ""
        self._mqtt = _import_paho()
        self._client = self._make_client(f"{name}-{secrets.token_hex(8)}")
        if will is not None:
            self._client.will_set(will.topic, will.payload, 1, will.retain)

    def open(self) -> None:
        """Connect.

        Raises:
            ConnectionError: If there is no broker, or it does not take us.
        """
        connect = self._mqtt.Properties(self._mqtt.PacketTypes.CONNECT)
        connect.SessionExpiryInterval = SESSION_SECONDS
        connect.MaximumPacketSize = MAX_PAYLOAD + 2**16
        broker = self._broker
        try:
            self._client.connect(
                broker.host, broker.port, broker.keepalive, properties=connect
            )
        except OSError as error:
            raise ConnectionError(_explain(broker, error)) from None
        self._client.loop_start()
        if not self._settled.wait(PATIENCE):
            self._failed = f"nothing in {PATIENCE:.0f} s"
        if self._failed:
            self.close()
            raise ConnectionError(
                f"Expected an MQTT 5 broker at {broker} that lets us in; check user "
                "name, password and certificates, and the broker's log and access "
                f"rules. Received: {self._failed}."
            )

    def publish(self, message: Message):
        """Send a message; it is kept and sent later where the connection is broken."""
        properties = self._mqtt.Properties(self._mqtt.PacketTypes.PUBLISH)
        if message.correlation:
            properties.CorrelationData = message.correlation
        if message.expires is not None:
            properties.MessageExpiryInterval = message.expires
        if message.fields:
            properties.UserProperty = [*message.fields.items()]
        return self._client.publish(
            message.topic, message.payload, 1, message.retain, properties
        )

    def confirm(self, published) -> None:
        """Wait until the broker has taken a message.

        Raises:
            ConnectionError: If it does not; the connection is closed then.
        """
        published.wait_for_publish(PATIENCE)
        if self._refused or not published.is_published():
            self.close()
            raise ConnectionError(
                f"Expected the right to publish; see the access rules of {self._broker}"
                f", by which a node or gateway may have to be called as its user. "
                f"Received: {self._refused or 'nothing'}, as {self._name!r}."
            )

    def close(self, farewell: Message | None = None) -> None:
        """Leave properly, with a last message: the broker says no will then."""
        self._closing = True
        if farewell is not None and self.up:
            try:
                self.publish(farewell).wait_for_publish(timeout=2)
            except RuntimeError as error:
                log.warning("The broker could not be told: %s", error)
        leave = self._mqtt.Properties(self._mqtt.PacketTypes.DISCONNECT)
        leave.SessionExpiryInterval = 0  # who leaves properly needs no session kept
        self._client.disconnect(properties=leave)
        self._client.loop_stop()

    def _make_client(self, client_id):
        client = self._mqtt.Client(
            self._mqtt.CallbackAPIVersion.VERSION2,
            client_id,
            protocol=self._mqtt.MQTTv5,
        )
        client.suppress_exceptions = True  # one raised here would end the thread
        client.max_inflight_messages_set(IN_FLIGHT)
        client.reconnect_delay_set(*RECONNECT_SECONDS)
        context = self._broker.ssl_context()
        if context is not None:
            client.tls_set_context(context)
        if self._broker.username:
            client.username_pw_set(self._broker.username, self._broker.password)
        client.on_connect, client.on_subscribe = self._connected, self._subscribed
        client.on_disconnect, client.on_message = self._disconnected, self._received
        client.on_publish, client.on_socket_open = self._published, _send_at_once
        return client

    def _connected(self, client, userdata, flags, reason, properties):
        if reason.is_failure:
            self._turned_away(str(reason))
            return
        options = self._mqtt.SubscribeOptions(qos=1)
        client.subscribe([(topic, options) for topic in self._topics])

    def _subscribed(self, client, userdata, mid, reasons, properties):
        failures = [str(reason) for reason in reasons if reason.is_failure]
        if failures:
            self._turned_away(f"{failures[0]}, for one of {[*self._topics]}")
            return
        again = self._settled.is_set()
        self.up = True
        self._on_up()
        self._settled.set()
        if again:
            log.warning("Connected to %s again.", self._broker)

    def _turned_away(self, reason):
        if self._settled.is_set():
            log.warning("The broker %s turns us away: %s.", self._broker, reason)
        else:
            self._failed = reason
            self._settled.set()

    def _disconnected(self, client, userdata, flags, reason, properties):
        was_up, self.up = self.up, False
        if self._closing:
            return
        if not self._settled.is_set():
            self._turned_away(f"a closed connection ({reason})")
        elif was_up:
            log.warning("Lost the broker %s (%s); trying again.", self._broker, reason)

    def _received(self, client, userdata, message):
        try:
            self._on_message(_from_paho(message))
        except Exception:
            log.exception("Dropped a message of %s", message.topic)

    def _published(self, client, userdata, mid, reason, properties):
        if reason.is_failure and not self._refused:
            self._refused = str(reason)
            log.error(
                "The broker %s refuses what we publish: %s. Check its access rules.",
                self._broker,
                reason,
            )


def _from_paho(message):
    get = message.properties.__dict__.get
    return Message(
        message.topic,
        message.payload,
        get("CorrelationData", b""),
        get("MessageExpiryInterval"),
        dict(get("UserProperty", ())),
        message.retain,
    )


def _send_at_once(client, userdata, sock):
    # Else an answer waits 40 ms for the acknowledgement of what was sent before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _explain(broker, error):
    expected, received = "an MQTT broker", f"{type(error).__name__}: {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        expected = f"a certificate for {broker.host}, signed by whom we trust"
        received = error.verify_message
    elif isinstance(error, ssl.SSLError) or (
        broker.tls and isinstance(error, ConnectionResetError)
    ):
        expected = "a broker that speaks TLS on this port"
    return (
        f"Expected {expected} at {broker}; check host, port and certificates, and that "
        f"the broker runs. Received: {received}."
    )


def _import_paho():
    try:
        from paho.mqtt import client, packettypes, properties, subscribeoptions
    except ImportError:
        raise ValueError(
            "Expected paho-mqtt, to talk to a broker: pip install paho-mqtt"
        ) from None
    return SimpleNamespace(
        Client=client.Client,
        CallbackAPIVersion=client.CallbackAPIVersion,
        MQTTv5=client.MQTTv5,
        PacketTypes=packettypes.PacketTypes,
        Properties=properties.Properties,
        SubscribeOptions=subscribeoptions.SubscribeOptions,
    )
