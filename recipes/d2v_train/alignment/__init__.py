"""Alignment of representations: do concepts lie alike in two modalities, and is that learned?"""
