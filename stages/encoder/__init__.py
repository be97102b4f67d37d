from stages.core.packages import offer

__getattr__ = offer("load_encoder", "stages.encoder.model")
