"""What is read by people and by gates: `summary` (numbers with intervals), `page` (one static HTML file)."""
