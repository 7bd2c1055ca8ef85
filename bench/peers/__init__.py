"""The systems that Nightdesk is measured against, stock, and Nightdesk itself under the same load."""
