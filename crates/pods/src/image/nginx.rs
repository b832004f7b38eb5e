//! Debian's nginx as the image `nginx:latest`, laid out as the official one: logs on stdout and stderr,
//! in the foreground, "Welcome to nginx!" on port 80, workers as user `nginx`, stopped by SIGQUIT.

use std::path::{Path, PathBuf};

use super::HostImage;
use super::elf::locate;

const CONFIG: &str = "\
user nginx;
worker_processes auto;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;

events {
    worker_connections 1024;
}

http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    log_format main '$remote_addr - $remote_user [$time_local] \"$request\" '
                    '$status $body_bytes_sent \"$http_referer\" '
                    '\"$http_user_agent\" \"$http_x_forwarded_for\"';
    access_log /var/log/nginx/access.log main;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
";

const SITE: &str = "\
server {
    listen 80;
    listen [::]:80;
    server_name localhost;
    location / {
        root /usr/share/nginx/html;
        index index.html;
    }
}
";

const PAGE: &str = "\
<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body>
<h1>Welcome to nginx!</h1>
<p>The web server of this pod runs and answers.</p>
</body>
</html>
";

/// busybox under these names, for `exec` and probes.
const APPLETS: &[&str] = &[
    "sh",
    "ash",
    "awk",
    "basename",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "date",
    "df",
    "dirname",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "head",
    "hostname",
    "id",
    "ip",
    "kill",
    "killall",
    "less",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "more",
    "mount",
    "mv",
    "nc",
    "netstat",
    "nslookup",
    "pgrep",
    "pidof",
    "ping",
    "pkill",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sleep",
    "sort",
    "stat",
    "tail",
    "tar",
    "tee",
    "telnet",
    "test",
    "timeout",
    "top",
    "touch",
    "tr",
    "traceroute",
    "true",
    "uname",
    "uniq",
    "uptime",
    "vi",
    "wc",
    "wget",
    "which",
    "whoami",
    "xargs",
    "yes",
];

/// Small host programs that stand in where busybox is not given.
const INSTEAD: &[&str] = &["sh", "cat", "ls", "sleep", "id", "ps", "kill", "hostname"];

/// Describes the image from a folder into which Debian's nginx (and busybox-static, curl, drill if wanted)
/// was unpacked by `dpkg -x`; what the folder lacks is taken from this machine.
pub fn nginx_from(root: &Path) -> HostImage {
    let mut image = HostImage {
        name: "nginx:latest".to_owned(),
        root: Some(root.to_path_buf()),
        programs: vec!["/usr/sbin/nginx".into()],
        dirs: ["/var/lib/nginx", "/var/cache/nginx", "/etc/nginx/conf.d", "/usr/share/nginx/html"]
            .map(PathBuf::from)
            .into(),
        users: vec![
            "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin".to_owned(),
            "nginx:x:101:101:nginx user:/nonexistent:/bin/false".to_owned(),
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin".to_owned(),
        ],
        groups: ["www-data:x:33:", "nginx:x:101:", "nogroup:x:65534:"].map(str::to_owned).into(),
        entrypoint: Vec::new(),
        cmd: ["nginx", "-g", "daemon off;"].map(str::to_owned).into(),
        exposed_ports: vec!["80/tcp".to_owned()],
        stop_signal: Some("SIGQUIT".to_owned()),
        symlinks: vec![
            ("/var/log/nginx/access.log".into(), "/dev/stdout".into()),
            ("/var/log/nginx/error.log".into(), "/dev/stderr".into()),
        ],
        texts: vec![
            ("/etc/nginx/nginx.conf".into(), CONFIG.to_owned()),
            ("/etc/nginx/conf.d/default.conf".into(), SITE.to_owned()),
        ],
        ..HostImage::default()
    };
    add_web_files(&mut image, root);
    add_tools(&mut image, root);
    image
}

fn add_web_files(image: &mut HostImage, root: &Path) {
    let mime = locate(Some(root), Path::new("/etc/nginx/mime.types"));
    match mime {
        Some(found) => image.files.push((found, "/etc/nginx/mime.types".into())),
        None => image.texts.push((
            "/etc/nginx/mime.types".into(),
            "types { text/html html; text/css css; text/plain txt; }\n".to_owned(),
        )),
    }
    let page = locate(Some(root), Path::new("/usr/share/nginx/html/index.html"));
    match page {
        Some(found) => image.files.push((found, "/usr/share/nginx/html/index.html".into())),
        None => image.texts.push(("/usr/share/nginx/html/index.html".into(), PAGE.to_owned())),
    }
}

fn add_tools(image: &mut HostImage, root: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| locate(Some(root), path).is_some());
    match busybox {
        Some(path) => {
            image.programs.push(path);
            let link = |name: &&str| (Path::new("/bin").join(name), PathBuf::from("busybox"));
            image.symlinks.extend(APPLETS.iter().map(link));
        }
        None => image.programs.extend(available(INSTEAD, root, "/bin")),
    }
    image.programs.extend(available(&["curl", "drill"], root, "/usr/bin"));
}

fn available(names: &[&str], root: &Path, folder: &str) -> Vec<PathBuf> {
    names.iter().map(|name| Path::new(folder).join(name)).filter(|path| locate(Some(root), path).is_some()).collect()
}
