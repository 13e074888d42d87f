"""What is trained and compared: scales, arms, studies, and the user's overrides."""
