"""What does each verb of the command line take, and what does it say?"""
