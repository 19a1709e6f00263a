"""The task of this folder."""
