"""What runs inside the Python kernel."""
