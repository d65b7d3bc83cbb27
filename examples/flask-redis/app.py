"""Counts the views of its page in Redis."""

import os

from flask import Flask
from redis import Redis

app = Flask(__name__)
redis = Redis(host="redis", socket_timeout=5)


@app.route("/")
def page():
    return f"{os.environ.get('TITLE', 'mcloud')}: {redis.incr('views')} views\n"


@app.route("/views")
def views():
    """The count, without counting."""
    return f"{int(redis.get('views') or 0)}\n"


@app.route("/up")
def up():
    redis.ping()
    return "up\n"
