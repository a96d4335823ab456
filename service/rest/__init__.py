"""The Open Inference Protocol over REST: HTTP in front of what the RPCs do."""
