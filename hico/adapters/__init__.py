"""Where hico meets other libraries' modules; none of those libraries is imported here."""
