"""Optical flow between two pictures, and what of it is the camera's.

`unimatch` is the network that the paper measures motion with, `dis` the stand-in that needs no weights; both give flow
in pixels of a picture stretched to 320x576, the one for each of them, (2, 320, 576), the other for every second,
(2, 160, 288). `camera` splits such a field into the camera's motion and the objects'.
"""
