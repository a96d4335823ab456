"""What the server tells of itself: statistics, metrics, logs, the HTTP side port."""
