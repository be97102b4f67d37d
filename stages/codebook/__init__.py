from stages.core.packages import offer

__getattr__ = offer("load_tokenizer", "stages.codebook.model")
