"""Long-video training rows made of annotated events; `events` says how these are written."""
