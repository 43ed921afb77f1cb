"""Zero-shot multi-label classification by semantic diversity learning."""
