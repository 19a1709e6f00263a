"""The task `functions`: any query with any tools, as one call; real users' queries of a leaderboard."""
