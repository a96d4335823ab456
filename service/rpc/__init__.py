"""What the RPCs mean: codec, servicers, statuses, health, reflection. Knows no network.

Requests come and answers go as bytes through the seam (service.transport.seam).
"""
