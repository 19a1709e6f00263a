"""The task `home`: what people say to a smart home, as Home Assistant intents."""
