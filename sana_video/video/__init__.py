"""Videos in and out: probing under limits, pictures by time, measures of a clip."""
