"""Run members on many devices, connected by MQTT: a gateway sends requests to nodes.

Only `connection.py` uses the MQTT client. `dispatcher.py`, `scheduler.py`, `request.py`
and `inbox.py` make the decisions, without MQTT and without threads of their own.
"""

__all__: list[str] = []
