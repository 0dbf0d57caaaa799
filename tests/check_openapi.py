#!/usr/bin/env python3
"""Does a running daemon answer as docs/openapi.json says?

    check_openapi.py SOCKET                the daemon that serves SOCKET
    check_openapi.py --start PROGRAM       start PROGRAM SOCKET on a socket of our own (fake-admin), check it, end it

Calls every documented GET endpoint and validates status, content type and body against the schema; asks every path with the
methods that are not documented (405 with the right Allow, or it is undocumented) and some paths that are not (404); and,
with --source broker_api.c, compares the table of endpoints there with the document. Changes nothing.
Exit status 77: python3-jsonschema is not installed.
"""
import argparse
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

try:
    import jsonschema
except ImportError:
    print("skip: python3-jsonschema is not installed")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]
UNDOCUMENTED = ["/", "/v1", "/v1/", "/v2/status", "/v1/config", "/v1/pairs", "/v1/nothing", "/v1/doctor", "/v1/debug", "/debug", "/healthz", "/status"]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("sealane", timeout=20)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Checker:
    def __init__(self, path, document):
        self.path, self.document = path, document
        self.n_checks, self.failures = 0, []

    def ask(self, method, target):
        connection = UnixConnection(self.path)
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def check(self, good, what):
        self.n_checks += 1
        if not good:
            self.failures.append(what)
            print(f"not ok - {what}")

    def validate(self, schema, value, what):
        try:
            jsonschema.Draft7Validator(self.to_json_schema(schema)).validate(value)
            self.check(True, what)
        except jsonschema.ValidationError as e:
            self.check(False, f"{what}: at /{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}")

    def resolve(self, node):
        while "$ref" in node:
            target = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = target
        return node

    def to_json_schema(self, node):
        """OpenAPI 3.0's dialect: references are put in place (none is recursive), `nullable` becomes a choice with null."""
        if isinstance(node, list):
            return [self.to_json_schema(n) for n in node]
        if not isinstance(node, dict):
            return node
        node = dict(self.resolve(node))
        nullable = node.pop("nullable", False) is True
        schema = {k: self.to_json_schema(v) for k, v in node.items()}
        return {"anyOf": [{"type": "null"}, schema]} if nullable else schema

    # --- what to ask ---

    def targets(self, path, operation, shared):
        """The path with its parameters filled in: names from the daemon itself, queries from the examples."""
        parameters = [self.resolve(p) for p in shared + operation.get("parameters", [])]
        query = "&".join(f"{p['name']}={p['example']}" for p in parameters if p["in"] == "query" and p.get("required"))
        if "{name}" not in path:
            return [path + ("?" + query if query else "")]
        names = [w["name"] for w in json.loads(self.ask("GET", "/v1/workloads")[1])["workloads"]]
        self.check(bool(names), f"{path}: the daemon knows a workload to ask for")
        return [path.replace("{name}", name) for name in names[:20]]

    def check_answer(self, target, operation):
        answer, body = self.ask("GET", target)
        documented = operation["responses"].get(str(answer.status))
        self.check(answer.status == 200 and documented is not None, f"GET {target}: status {answer.status}: {body[:200]!r}")
        if not documented:
            return
        kind = answer.getheader("Content-Type", "").split(";")[0]
        content = self.resolve(documented).get("content", {})
        self.check(kind in content, f"GET {target}: content type {kind!r}, documented: {sorted(content)}")
        if kind == "application/json":
            self.validate(content[kind]["schema"], json.loads(body), f"GET {target}")
        elif kind == "application/x-ndjson":
            for number, line in enumerate(body.decode().splitlines()):
                self.validate(content[kind]["schema"], json.loads(line), f"GET {target}, line {number + 1}")

    def check_error(self, method, target, status):
        answer, body = self.ask(method, target)
        self.check(answer.status == status, f"{method} {target}: status {answer.status}, expected {status}: is it undocumented?")
        if answer.status >= 400:
            schema = self.document["components"]["responses"]["Error"]["content"]["application/json"]["schema"]
            self.validate(schema, json.loads(body), f"{method} {target}: the error")
        return answer

    def check_methods(self, path, item):
        documented = sorted(m.upper() for m in item if m.upper() in METHODS)
        for method in METHODS:
            if method not in documented:
                answer = self.check_error(method, path.replace("{name}", "no-such-workload"), 405)
                allow = sorted(re.split(r",\s*", answer.getheader("Allow", "")))
                self.check(allow == documented, f"{method} {path}: Allow is {allow}, documented are {documented}")

    def run(self):
        for path, item in self.document["paths"].items():
            if "get" in item:
                for target in self.targets(path, item["get"], item.get("parameters", [])):
                    self.check_answer(target, item["get"])
            self.check_methods(path, item)
            self.check_error("GET", path.replace("{name}", "no-such-workload") + "/x", 404)
        for path in UNDOCUMENTED:
            self.check_error("GET", path, 404)
        self.check_error("GET", "/v1/workloads/no-such-workload", 404)
        self.check_error("GET", "/v1/explain", 400)
        served = json.loads(self.ask("GET", "/v1/openapi.json")[1])
        self.check(served == self.document, "the document that the daemon serves is docs/openapi.json")

    def check_source(self, source):
        with open(source, encoding="utf-8") as f:
            table = re.search(r"endpoints\[\] = \{(.*?)\n\};", f.read(), re.S).group(1)
        served = {}
        for path, handlers in re.findall(r'\{ "([^"]+)",\s*\{(.*?)\}', table, re.S):
            served[path.replace("*", "{name}")] = sorted(re.findall(r"API_([A-Z]+)", handlers))
        documented = {p: sorted(m.upper() for m in item if m.upper() in METHODS) for p, item in self.document["paths"].items()}
        self.check(served == documented, f"the table in {os.path.basename(source)} and the document differ: "
                   f"{sorted(set(map(str, served.items())) ^ set(map(str, documented.items())))}")


def start(program, directory):
    path = os.path.join(directory, "admin.sock")
    process = subprocess.Popen([program, path], stderr=subprocess.DEVNULL)
    for _ in range(200):
        if os.path.exists(path):
            break
        time.sleep(0.05)
    return process, path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("socket", nargs="?")
    parser.add_argument("--start")
    parser.add_argument("--source")
    options = parser.parse_args()
    with open(os.path.join(ROOT, "docs/openapi.json"), encoding="utf-8") as f:
        document = json.load(f)
    with tempfile.TemporaryDirectory() as directory:
        process, path = start(options.start, directory) if options.start else (None, options.socket)
        checker = Checker(path, document)
        try:
            checker.run()
            if options.source:
                checker.check_source(options.source)
        finally:
            if process:
                process.terminate()
                checker.check(process.wait(timeout=20) == 0, f"{options.start} ended in order")
    print(f"{checker.n_checks} checks, {len(checker.failures)} failed")
    return 1 if checker.failures else 0


sys.exit(main())
