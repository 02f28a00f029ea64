"""Folders of `torch.distributed.checkpoint` (DCP): ours and other trainers', read by rows and written in parallel, without a pickle being run."""
