"""One folder per task: what the job is, and where its data comes from."""
