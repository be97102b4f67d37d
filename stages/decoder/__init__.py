from stages.core.packages import offer

__getattr__ = offer("load_decoder", "stages.decoder.model")
