"""What instructors and maintainers run: build and check the notebooks, run a lesson, make the twins."""
