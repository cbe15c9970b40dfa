"""A real Prometheus on loopback; each second it scrapes one daemon and, as another job, itself."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request

import yaml

from processes import wait_until

# In a directory of its own; Debian's default would be one for all.
COMMAND = "prometheus --config.file=prometheus.yml --storage.tsdb.path=data --web.listen-address="
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class BadQuery(AssertionError):
    pass


class Prometheus:
    """With `rules`, a file; it is over with close()."""

    def __init__(self, target, rules):
        self.directory = tempfile.mkdtemp(prefix="ultraep-test-")
        address = f"127.0.0.1:{free_port()}"
        with open(os.path.join(self.directory, "prometheus.yml"), "w") as file:
            yaml.safe_dump({
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(rules)],
                "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [at]}]}
                                   for job, at in (("ultraep", target), ("other", address))]},
                file)
        self.url = f"http://{address}"
        self.log = open(os.path.join(self.directory, "log"), "w+")
        self.process = subprocess.Popen((COMMAND + address).split(), cwd=self.directory,
                                        stdout=self.log, stderr=self.log)
        try:
            wait_until(self.answers, 60, "Prometheus is ready")
        except BaseException:
            self.close()
            raise

    def answers(self):
        if self.process.poll() is not None:
            with open(self.log.name) as log:
                raise AssertionError("Prometheus has ended: " + log.read())
        try:
            return DIRECT.open(self.url + "/-/ready", timeout=10).status == 200
        except OSError:
            return False

    def get(self, path, **parameters):
        """What the API says under data; BadQuery with its text when it refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with DIRECT.open(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise BadQuery(f"{parameters}: {error.read().decode(errors='replace')}") from error

    def samples(self, expression):
        """(labels, number) of each series that has one now; NaN is none."""
        data = self.get("query", query=expression)
        assert data["resultType"] == "vector", f"{expression} is a {data['resultType']}"
        pairs = [(one["metric"], float(one["value"][1])) for one in data["result"]]
        return [(labels, number) for labels, number in pairs if number == number]

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
