"""What a person types: a thin client of the gateway's HTTP API."""
