"""Images without content, for a cluster of one node on this machine: pods see its Python and this working tree.

python tests/e2e/machine.py OUT writes OUT/image.tar (load it into the node), OUT/manifest.yaml (a PersistentVolume of
the machine's root and a claim to it, which the Pod Security level "restricted" admits) and OUT/values.yaml. The C
kernels it compiles ahead in the working tree, as images have them. Then

    make e2e E2E_MANIFEST=OUT/manifest.yaml E2E_VALUES=OUT/values.yaml

Knows paths and archives, no cluster.
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import yaml

from expertmesh.kernels.native.isa import usable_variants
from expertmesh.kernels.native.prebuilt import DIRECTORY, compile_ahead

REPOSITORY = Path(__file__).resolve().parents[2]
VENV, PYTHON = Path(sys.prefix), Path(sys.base_prefix)
IMAGES = ("localhost/expertmesh-gateway:machine", "localhost/expertmesh-expert:machine")
SOURCE_ROOTS = ("protos/gen", "kernels", "services")
CLAIM, VOLUME = "machine", "machine-$NAMESPACE"
PROGRAMS = {"python": f"{VENV}/bin/python", "expertmesh": f"{VENV}/bin/python -m expertmesh.cli.main"}
# As the chart's command for curl, which these images lack.
FETCH = """
import os, urllib.request
for name in os.environ["FILES"].split():
    urllib.request.urlretrieve(os.environ["BASE_URL"] + "/" + name, os.environ["MODEL"] + "/" + name)
"""
# Merged directories, as on Debian; /usr itself is mounted.
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def write_image(archive, role):
    """Add an image of one layer to a tar file in the OCI layout; returns its manifest's descriptor."""
    layer = pack_layer()
    environment = [
        "PATH=/opt/expertmesh/bin:/usr/bin",
        f"PYTHONPATH={':'.join(f'/src/{root}' for root in SOURCE_ROOTS)}",
    ]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        "config": {"Cmd": ["expertmesh", role], "Env": environment, "User": "65532"},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add_blob(archive, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [add_blob(archive, layer, "application/vnd.oci.image.layer.v1.tar")],
    }
    return add_blob(archive, json.dumps(manifest).encode(), manifest["mediaType"])


def pack_layer():
    """The one layer: mount points, the links of a merged /usr, and the programs."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("usr", "src", "etc", "proc", "dev", "sys", "tmp", "opt/expertmesh/bin"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, target in LINKS.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for name, command in PROGRAMS.items():
            add_file(tar, f"opt/expertmesh/bin/{name}", f'#!/bin/sh\nexec {command} "$@"\n'.encode(), mode=0o755)
    return packed.getvalue()


def add_file(tar, name, content, mode=0o644):
    """Add a file to a tar."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def add_blob(tar, content, media_type):
    """Add a blob to an OCI layout, once; returns its descriptor."""
    name = f"blobs/sha256/{digest(content).removeprefix('sha256:')}"
    if name not in tar.getnames():
        add_file(tar, name, content)
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def digest(content):
    """The name of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def write_images(path):
    """Write the archive of both images."""
    with tarfile.open(path, "w") as tar:
        manifests = []
        for image in IMAGES:
            role = image.partition("expertmesh-")[2].partition(":")[0]
            names = {"io.containerd.image.name": image, "org.opencontainers.image.ref.name": image}
            manifests.append(write_image(tar, role) | {"annotations": names})
        add_file(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
        add_file(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def volume():
    """The machine's root as a PersistentVolume, and a claim to it."""
    shared = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": VOLUME},
            "spec": shared
            | {
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/"},
                "claimRef": {"name": CLAIM, "namespace": "$NAMESPACE"},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM},
            "spec": shared | {"volumeName": VOLUME, "resources": {"requests": {"storage": "1Gi"}}},
        },
    ]


def values():
    """Values that mount what the images lack."""
    where = {"/usr": "/usr", str(PYTHON): str(PYTHON), str(VENV): str(VENV), str(REPOSITORY): "/src"}
    mounts = [
        {"name": "machine", "mountPath": target, "subPath": source.lstrip("/"), "readOnly": True}
        for source, target in where.items()
    ]
    pod = {
        "extraVolumes": [{"name": "machine", "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}}],
        "extraVolumeMounts": mounts,
    }
    return {
        "image": {"registry": "localhost", "tag": "machine", "pullPolicy": "Never"},
        "model": {
            "inImage": {"path": "/src/examples/tiny-mixtral/awq"},
            "fetch": {"image": IMAGES[0], "command": ["python", "-c", FETCH]},
        },
        "gateway": pod,
        "experts": {"defaults": pod},
    }


def main(out):
    """Write the three files and compile."""
    compile_ahead("cc", DIRECTORY, usable_variants())
    out.mkdir(parents=True, exist_ok=True)
    write_images(out / "image.tar")
    (out / "manifest.yaml").write_text(yaml.safe_dump_all(volume()))
    (out / "values.yaml").write_text(yaml.safe_dump(values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
