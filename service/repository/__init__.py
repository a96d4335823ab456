"""The model repository: its layout, config.pbtxt and manifest.json. The contract with exporters.

Knows files and nothing of sessions, requests or RPCs.
"""
