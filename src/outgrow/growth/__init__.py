"""What a growth is: two models and the maps between them; what it keeps, and what every tensor is made of."""
