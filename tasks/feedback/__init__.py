"""The task `feedback`: what a text feels like to people, as one call with a sentiment and its strength."""
