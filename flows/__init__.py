"""When work happens: Prefect flows over DVC's graph, and the `sana-video` command. Nothing imports it."""
