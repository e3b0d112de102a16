"""The science: networks, losses, data, training and scores. Knows neither Flower nor a command line."""
