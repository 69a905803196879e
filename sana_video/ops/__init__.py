"""Operations with a definition and, beside it, faster forms that a test holds to the definition."""
