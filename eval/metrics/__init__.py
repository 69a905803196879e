"""Measures of video, our own code: `fullref` compares with a reference, `noref` looks at one clip alone."""
