"""Connect to a broker with the MQTT client, paho-mqtt."""

import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from .broker import Broker
from .message import MAX_PACKET, LRUCache, Message

__all__ = ["Connection"]

log = logging.getLogger(__name__)

#: Seconds for which the broker keeps messages for a client that is disconnected.
SESSION_SECONDS = 60
#: Seconds to wait for the first connection, and for a confirmation.
TIMEOUT = 10.0
RECONNECT_SECONDS = (0.25, 4)
#: Largest number of messages that the broker has not acknowledged.
IN_FLIGHT = 100
#: How often the connection may be lost while the same message is being sent.
MAX_BROKEN = 2


class Connection:
    """Keep a connection to a broker, with MQTT 5 and quality of service 1.

    The first connection succeeds or raises. A lost one is retried until it succeeds;
    the broker keeps the session and its subscriptions for a minute. Messages that it
    had not acknowledged are not sent again; `on_connect` repeats what is needed.

    Args:
        broker: The broker.
        name: Name of the node or gateway. The client id has a random suffix, since
            everybody who knows it could disconnect the client.
        topics: Topics to subscribe to.
        will: Message that the broker publishes when the client is lost. Defaults to
            `None`.
        on_message: Function called with every `Message`, in the client's thread.
        on_connect: Function called after every connection, once it can publish.
        on_dropped: Function called with a message and the reason if the message is
            larger than the broker accepts, or has a payload and Correlation Data and
            was the largest being sent when the connection was lost, twice.

    Attributes:
        is_up: Whether it is connected.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        topics: Sequence[str],
        *,
        will: Message | None = None,
        on_message: Callable[[Message], None],
        on_connect: Callable[[], None],
        on_dropped: Callable[[Message, str], None] = lambda message, reason: None,
    ) -> None:
        self.is_up, self._failed = False, ""
        self._name = name
        self._broker, self._topics = broker, topics
        self._on_message, self._on_connect = on_message, on_connect
        self._on_dropped, self._limit = on_dropped, MAX_PACKET
        self._broken = LRUCache()  # number of lost connections, by message
        self._settled, self._closing, self._refused = threading.Event(), False, ""
        self._mqtt = _import_paho()
        self._client = self._make_client(f"{name}-{secrets.token_hex(8)}")
        if will is not None:
            self._client.will_set(will.topic, will.payload, 1, will.retain)

    def open(self) -> None:
        """Connect, or raise a `ConnectionError`."""
        connect = self._mqtt.Properties(self._mqtt.PacketTypes.CONNECT)
        connect.SessionExpiryInterval = SESSION_SECONDS
        connect.MaximumPacketSize = MAX_PACKET
        broker = self._broker
        try:
            self._client.connect(
                broker.host, broker.port, broker.keepalive, properties=connect
            )
        except OSError as error:
            raise ConnectionError(_explain(broker, error)) from None
        self._client.loop_start()
        if not self._settled.wait(TIMEOUT):
            self._failed = f"nothing in {TIMEOUT:.0f} s"
        if self._failed:
            self.close()
            raise ConnectionError(
                f"Expected an MQTT 5 broker at {broker} that accepts this client; "
                "check user name, password and certificates, and the broker's log and "
                f"access rules. Received: {self._failed}."
            )

    def publish(self, message: Message) -> Any:
        """Publish a message, at once or after the next connection.

        Returns the client's `MQTTMessageInfo`, or `None` if the message was dropped.
        """
        n_broken = self._broken.get((message.topic, message.correlation)) or 0
        if message.payload and (self.room(message) < 0 or n_broken >= MAX_BROKEN):
            self._drop(message)
            return None
        properties = self._properties(message)
        return self._client.publish(
            message.topic, message.payload, 1, message.retain, properties
        )

    def room(self, message: Message) -> int:
        """Return how many more bytes the broker accepts in the payload of a message."""
        return self._limit - self._size(message)

    def _size(self, message):
        properties = len(self._properties(message).pack())
        topic = len(message.topic.encode())
        return 9 + topic + properties + len(message.payload)  # 9: fixed header, lengths

    def _properties(self, message):
        properties = self._mqtt.Properties(self._mqtt.PacketTypes.PUBLISH)
        if message.correlation:
            properties.CorrelationData = message.correlation
        if message.expires is not None:
            properties.MessageExpiryInterval = message.expires
        if message.fields:
            properties.UserProperty = [*message.fields.items()]
        return properties

    def confirm(self, published: Any) -> None:
        """Wait until the broker accepts what `publish` returned.

        Raises:
            ConnectionError: If it does not; the connection is then closed.
        """
        if published is not None:
            published.wait_for_publish(TIMEOUT)
        if self._refused or published is None or not published.is_published():
            self.close()
            raise ConnectionError(
                f"Expected the right to publish; see the access rules of {self._broker}"
                f", which may require that a node or gateway is named as its user. "
                f"Received: {self._refused or 'nothing'}, as {self._name!r}."
            )

    def close(self, farewell: Message | None = None) -> None:
        """Disconnect after a last message; the broker then publishes no will."""
        self._closing = True
        if farewell is not None and self.is_up:
            try:
                self.publish(farewell).wait_for_publish(timeout=2)
            except RuntimeError as error:
                log.warning("The last message could not be sent: %s", error)
        leave = self._mqtt.Properties(self._mqtt.PacketTypes.DISCONNECT)
        leave.SessionExpiryInterval = 0  # the broker need not keep the session
        self._client.disconnect(properties=leave)
        self._client.loop_stop()

    def _make_client(self, client_id):
        client = self._mqtt.Client(
            self._mqtt.CallbackAPIVersion.VERSION2,
            client_id,
            protocol=self._mqtt.MQTTv5,
        )
        client.suppress_exceptions = True  # an exception would end the client's thread
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
            self._rejected(str(reason))
            return
        self._limit = min(MAX_PACKET, _maximum_packet_size(properties))
        options = self._mqtt.SubscribeOptions(qos=1)
        client.subscribe([(topic, options) for topic in self._topics])

    def _subscribed(self, client, userdata, mid, reasons, properties):
        failures = [str(reason) for reason in reasons if reason.is_failure]
        if failures:
            self._rejected(f"{failures[0]}, for one of {[*self._topics]}")
            return
        is_reconnection = self._settled.is_set()
        self.is_up = True
        self._on_connect()
        self._settled.set()
        if is_reconnection:
            log.warning("Connected to %s again.", self._broker)

    def _rejected(self, reason):
        if self._settled.is_set():
            log.warning("The broker %s rejects the client: %s.", self._broker, reason)
        else:
            self._failed = reason
            self._settled.set()

    def _disconnected(self, client, userdata, flags, reason, properties):
        was_up, self.is_up = self.is_up, False
        if self._closing:
            return
        self._count_broken(_take_unacknowledged(client))
        if not self._settled.is_set():
            self._rejected(f"a closed connection ({reason})")
        elif was_up:
            log.warning("Lost the broker %s (%s); reconnecting.", self._broker, reason)

    def _count_broken(self, messages):
        """Drop the message that has broken the connection again.

        A broker that closes the connection does not say because of which message. The
        largest is the likely one; the others are innocent.
        """
        sent = [m for m in map(_from_paho, messages) if m.payload and m.correlation]
        largest = max((len(message.payload) for message in sent), default=0)
        for message in sent:
            if len(message.payload) == largest:
                key = message.topic, message.correlation
                count = (self._broken.get(key) or 0) + 1
                self._broken.put(key, count)
                if count >= MAX_BROKEN:
                    self._drop(message)

    def _drop(self, message):
        size = self._size(message)
        reason = (
            f"Expected at most {self._limit:,} bytes, which the broker {self._broker} "
            "accepts; send fewer samples at a time, or raise max_packet_size in its "
            f"configuration. Received: {size:,} bytes."
        )
        if size <= self._limit:
            reason = (
                f"Expected a message that the broker {self._broker} accepts; send "
                f"fewer samples at a time, and see its log. Received: {size:,} bytes, "
                f"during which the connection was lost {MAX_BROKEN} times."
            )
        log.error("Dropped a message to %s. %s", message.topic, reason)
        self._on_dropped(message, reason)

    def _received(self, client, userdata, message):
        try:
            self._on_message(_from_paho(message))
        except Exception:
            log.exception("Dropped a message of %s", message.topic)

    def _published(self, client, userdata, mid, reason, properties):
        if reason.is_failure and not self._refused:
            self._refused = str(reason)
            log.error(
                "The broker %s rejects messages: %s. See its access rules and limits.",
                self._broker,
                reason,
            )


def _maximum_packet_size(properties):
    return properties.__dict__.get("MaximumPacketSize", MAX_PACKET)


def _take_unacknowledged(client):
    """Return the messages being sent, which the client would send again for ever."""
    from paho.mqtt.enums import MessageState

    with client._out_message_mutex:  # `drop_out_messages` is missing in version 2.1
        messages = [*client._out_messages.values()]
        client._out_messages.clear()
    return [m for m in messages if m.state == MessageState.MQTT_MS_WAIT_FOR_PUBACK]


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
    # With Nagle's algorithm a response waits 40 ms for the previous acknowledgement.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _explain(broker, error):
    expected, received = "an MQTT broker", f"{type(error).__name__}: {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        expected = f"a certificate for {broker.host} by a trusted authority"
        received = error.verify_message
    elif isinstance(error, ssl.SSLError) or (
        broker.tls and isinstance(error, ConnectionResetError)
    ):
        expected = "a broker with TLS on this port"
    return (
        f"Expected {expected} at {broker}; check host, port and certificates, and that "
        f"the broker is running. Received: {received}."
    )


def _import_paho():
    try:
        from paho.mqtt import client, enums, packettypes, properties, subscribeoptions
    except ImportError:
        raise ValueError(
            "Expected paho-mqtt, to connect to a broker: pip install paho-mqtt"
        ) from None
    return SimpleNamespace(
        Client=client.Client,
        CallbackAPIVersion=enums.CallbackAPIVersion,
        MQTTv5=client.MQTTv5,
        PacketTypes=packettypes.PacketTypes,
        Properties=properties.Properties,
        SubscribeOptions=subscribeoptions.SubscribeOptions,
    )
