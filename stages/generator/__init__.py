from stages.core.packages import offer

__getattr__ = offer("load_generator", "stages.generator.api")
