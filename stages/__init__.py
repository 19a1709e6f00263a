"""The scripts that dvc.yaml runs, one per stage."""
