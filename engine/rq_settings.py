"""Where rq's own command finds Redis: `rq worker -c engine.rq_settings …` goes by our settings."""

from config import settings

REDIS_URL = settings.redis_url
