//! A guest as a host of containers: Debian's Docker in an image that is built here, and the kernel
//! features that container engines and VPNs use.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use host_rpc as rpc;
use model::SandboxId;

use crate::agent::{Agent, shell, slots_of, spec};

/// Returns the directory of the image, which is built from the recipe beside this file once.
fn image_dir() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(build_image);
    &DIR
}

fn build_image() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = crate_dir.join("../..").canonicalize().unwrap();
    let images = workspace.join("target/testdata/long");
    let status = Command::new(workspace.join("scripts/build-image.sh"))
        .arg(crate_dir.join("tests/long/engine"))
        .arg(&images)
        .status()
        .unwrap();
    assert!(status.success(), "the image cannot be built");
    images
}

async fn create(agent: &Agent) -> SandboxId {
    let id = SandboxId::random();
    let spec = rpc::SandboxSpec {
        template: "engine".into(),
        vcpus: 2,
        memory_mb: 1024,
        ..spec()
    };
    agent.ensure(&id, spec).await.unwrap();
    id
}

/// Runs a script as root. Returns what it prints; what it says besides is not looked at.
async fn run_as_root(agent: &Agent, id: &SandboxId, script: &str) -> String {
    let script = format!("set -eu; export PATH=/usr/sbin:/usr/bin:/sbin:/bin; {script}");
    let request = rpc::ExecRequest {
        user: Some("root".into()),
        ..shell(id, &script)
    };
    let done = agent.exec(request).await.unwrap();
    assert_eq!(done.code, 0, "{script}\n{}\n{}", done.stdout, done.stderr);
    done.stdout.trim().to_owned()
}

/// Starts the engine as there is no init system to do it.
const START_ENGINE: &str = "
    setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &
    for _ in $(seq 600); do docker info >/dev/null 2>&1 && break; sleep 0.5; done
    docker info --format '{{.Driver}} {{.CgroupVersion}}' || { cat /var/log/dockerd.log; exit 1; }";

/// Makes the local image `local` of one static program.
const IMPORT_IMAGE: &str = "
    mkdir -p /tmp/rootfs/bin /tmp/rootfs/www; cp /bin/busybox /tmp/rootfs/bin/busybox
    ln -sf busybox /tmp/rootfs/bin/sh; echo served >/tmp/rootfs/www/index.html
    tar -C /tmp/rootfs -c . | docker import - local >/dev/null
    docker save local >/tmp/local.tar; docker rmi local >/dev/null; docker load -q </tmp/local.tar";

/// Returns what a guest's server answers to the host.
fn get_from_host(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_runs_local_images() {
    let images = image_dir();
    let agent = Agent::start(&[("AGENT_IMAGES_PATH", images.to_str().unwrap())]).await;
    let id = create(&agent).await;
    let sh = async |script| run_as_root(&agent, &id, script).await;
    assert_eq!(sh(START_ENGINE).await, "overlay2 2");
    assert_eq!(sh(IMPORT_IMAGE).await, "Loaded image: local:latest");
    assert_eq!(sh("docker run --rm local /bin/busybox echo 42").await, "42");
    let limited = "docker run --rm --memory 64m --cpus 0.5 --pids-limit 20 local /bin/sh -c \
        'busybox cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max'";
    assert_eq!(sh(limited).await, "67108864\n50000 100000\n20");
    let built = "mkdir /tmp/context; \
        printf 'FROM local\\nRUN [\"/bin/busybox\",\"touch\",\"/made\"]\\n' >/tmp/context/Dockerfile; \
        DOCKER_BUILDKIT=0 docker build -t made /tmp/context >/dev/null; \
        docker run --rm made /bin/busybox ls /made";
    assert_eq!(sh(built).await, "/made");
    let serve = "docker run -d --name web -p 8080:80 local /bin/busybox httpd -f -p 80 -h /www >/dev/null; \
        for _ in $(seq 100); do busybox wget -q -O - http://127.0.0.1:8080/ && break; sleep 0.2; done; \
        docker run --rm --link web local /bin/busybox wget -q -O - http://web/";
    assert_eq!(sh(serve).await, "served\nserved");
    let slot = slots_of(agent.dir.path())[0];
    let answer = get_from_host((slot.host_ip(), 8080).into());
    assert!(answer.ends_with("\r\n\r\nserved\n"), "{answer}");
    agent.pause(&id).await.unwrap();
    agent.resume(&id).await.unwrap();
    assert_eq!(
        sh("docker exec web /bin/busybox cat /www/index.html; docker rm -f web").await,
        "served\nweb"
    );
    agent.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_has_features_of_containers() {
    let images = image_dir();
    let agent = Agent::start(&[("AGENT_IMAGES_PATH", images.to_str().unwrap())]).await;
    let id = create(&agent).await;
    let sh = async |script| run_as_root(&agent, &id, script).await;
    let fuse = "mkdir -p /tmp/f/lower /tmp/f/upper /tmp/f/work /tmp/f/both; echo below >/tmp/f/lower/file; \
        fuse-overlayfs -o lowerdir=/tmp/f/lower,upperdir=/tmp/f/upper,workdir=/tmp/f/work /tmp/f/both; \
        cat /tmp/f/both/file; echo above >/tmp/f/both/file; cat /tmp/f/lower/file /tmp/f/upper/file; \
        fusermount3 -u /tmp/f/both; ls /tmp/f/both";
    assert_eq!(sh(fuse).await, "below\nbelow\nabove");
    let wireguard = "umask 077; wg genkey >/tmp/a; wg genkey >/tmp/b; \
        ip netns add a; ip netns add b; ip link add va type veth peer name vb; \
        ip link set va netns a; ip link set vb netns b; \
        for n in a b; do [ $n = a ] && i=1 o=2 p=b || { i=2; o=1; p=a; }; e=\"ip netns exec $n\"; \
            $e ip addr add 192.168.9.$i/24 dev v$n; $e ip link set v$n up; $e ip link add wg0 type wireguard; \
            $e wg set wg0 listen-port 5000 private-key /tmp/$n peer $(wg pubkey </tmp/$p) \
                endpoint 192.168.9.$o:5000 allowed-ips 192.168.10.0/24; \
            $e ip addr add 192.168.10.$i/24 dev wg0; $e ip link set wg0 up; done; \
        ip netns exec a busybox ping -c 1 -w 20 192.168.10.2 >/dev/null; \
        ip netns exec b wg show wg0 latest-handshakes | wc -l";
    assert_eq!(sh(wireguard).await, "1");
    let tun = "ip tuntap add dev tun7 mode tun; ip addr add 10.99.0.1/24 dev tun7; ip link set tun7 up; \
        ip -br addr show tun7 | cut -d' ' -f1";
    assert_eq!(sh(tun).await, "tun7");
    let loop_device = "truncate -s 8M /tmp/disk; mke2fs -q /tmp/disk; mkdir /tmp/mounted; \
        mount -o loop /tmp/disk /tmp/mounted; echo kept >/tmp/mounted/file; umount /tmp/mounted; \
        mount -o loop,ro /tmp/disk /tmp/mounted; cat /tmp/mounted/file; umount /tmp/mounted";
    assert_eq!(sh(loop_device).await, "kept");
    let nftables = "nft add table inet t; nft add chain inet t out '{ type filter hook output priority 0; }'; \
        nft add rule inet t out ip daddr 192.0.2.7 counter reject with icmp type admin-prohibited; \
        iptables -t nat -A POSTROUTING -s 172.30.0.0/16 -o eth0 -j MASQUERADE; \
        nft list chain inet t out | grep -c 'reject with icmp'; iptables -t nat -S POSTROUTING | grep -c MASQUERADE";
    assert_eq!(sh(nftables).await, "1\n1");
    // `io_uring_setup` of one entry is number 425; its parameters are 120 bytes.
    let io_uring = "python3 -c 'import ctypes; \
        print(ctypes.CDLL(None).syscall(425, 1, ctypes.create_string_buffer(120)) > 2)'";
    assert_eq!(sh(io_uring).await, "True");
    let nested = "unshare -Urmpnf --mount-proc sh -ec 'id -u; echo $$; ip link add d0 type dummy; \
        mount -t tmpfs tmpfs /mnt; unshare -Urmpnf --mount-proc sh -ec \"id -u; ls /proc | grep -c ^1$\"'";
    assert_eq!(sh(nested).await, "0\n1\n0\n1");
    agent.finish().await;
}
