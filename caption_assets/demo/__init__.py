"""The demo: a scene generator, a tiny vision-language model trained on its scenes, and the perspectives it answers."""
