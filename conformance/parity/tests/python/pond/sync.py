from pond._core.client import Client as Client
