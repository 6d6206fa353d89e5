"""Pictures and timelines: matplotlib figures and Perfetto files of what other rooms found."""
