"""Optical flow between two pictures, and what of it is the camera's.

`unimatch` is the network that the paper measures motion with, `dis` the stand-in that needs no weights; both give
(2, 320, 576) in pixels of a picture stretched to that size. `camera` splits such a field into the camera's motion and
the objects'.
"""
