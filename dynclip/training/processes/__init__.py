"""Worker processes of one training, on one machine or several."""
