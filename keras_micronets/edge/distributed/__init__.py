"""Members on many devices, joined by MQTT: nodes run members, a gateway asks them.

What a broker is for, the MQTT client, is in `connection.py` alone. `dispatcher.py`,
`roster.py`, `question.py` and `inbox.py` decide; they know neither MQTT nor threads.
"""
