package embedded

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// idleLimit is how long a closing ClickHouse waits for clients that are still connected.
const idleLimit = time.Second

// libraryPackages are the npm packages that carry libchdb, by GOOS/GOARCH.
var libraryPackages = map[string]string{
	"linux/amd64":  "lib-linux-x64-gnu",
	"linux/arm64":  "lib-linux-arm64-gnu",
	"darwin/amd64": "lib-darwin-x64",
	"darwin/arm64": "lib-darwin-arm64",
}

// FindLibrary returns the path of libchdb: configured if that is not empty, else the environment's LIBCHDB, else
// what `make tools` put into .tools of the working directory, the executable's folder, or a folder above one of
// these. It returns "" without an error when there is none.
func FindLibrary(configured string) (string, error) {
	for _, path := range []string{configured, os.Getenv("LIBCHDB")} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("libchdb: %w", err)
		}
		return filepath.Abs(path)
	}
	pkg, ok := libraryPackages[runtime.GOOS+"/"+runtime.GOARCH]
	if !ok {
		return "", nil
	}
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, dir := range starts {
		for ; ; dir = filepath.Dir(dir) {
			path := filepath.Join(dir, ".tools", "node_modules", "@chdb", pkg, "libchdb.so")
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", nil
}

// clickhouseSpec finds the engine and fills in the addresses. ClickHouse takes no port 0, so free ones are chosen
// here; another process may take one in between, which the start then reports.
func clickhouseSpec(cfg Config) (spec, error) {
	sp := spec{Part: ClickHouse, Addrs: []string{cfg.ClickHouseAddr, cfg.ClickHouseHTTPAddr}}
	if h1, h2 := host(cfg.ClickHouseAddr), host(cfg.ClickHouseHTTPAddr); h1 != h2 {
		return sp, fmt.Errorf("clickhouse: --%s and --%s must have the same host, not %q and %q", FlagClickHouse, FlagClickHouseHTTP, h1, h2)
	}
	var err error
	if sp.Library, err = FindLibrary(cfg.Library); err != nil {
		return sp, err
	}
	if sp.Library == "" {
		if sp.Binary, err = exec.LookPath("clickhouse"); err != nil {
			return sp, fmt.Errorf("clickhouse: neither libchdb nor a clickhouse binary was found for %s/%s: run `make tools` (needs npm), or set LIBCHDB to a libchdb.so, or set CLICKHOUSE_ADDR to a running ClickHouse",
				runtime.GOOS, runtime.GOARCH)
		}
	}
	if sp.Users, err = usersXML(cfg.Analysts); err != nil {
		return sp, err
	}
	for i, addr := range sp.Addrs {
		if sp.Addrs[i], err = fixedPort(addr); err != nil {
			return sp, fmt.Errorf("clickhouse: address %q: %w", addr, err)
		}
	}
	return sp, nil
}

// host returns the host of host:port, and text without a port as it is: start refuses that.
func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}

// fixedPort replaces port 0 by a port that is free now.
func fixedPort(addr string) (string, error) {
	if _, port, err := net.SplitHostPort(addr); err != nil || port != "0" {
		return addr, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func runClickHouse(p *process) error {
	if err := os.MkdirAll(p.dataDir(), 0o755); err != nil {
		return err
	}
	for _, addr := range p.spec.Addrs { // the engine's own words about a taken port end in a log
		l, err := p.listen(addr)
		if err != nil {
			return err
		}
		l.Close()
	}
	p.awaitStatus()
	usersPath, configPath := filepath.Join(p.spec.Dir, "users.xml"), filepath.Join(p.spec.Dir, "config.xml")
	config, err := serverXML(p, usersPath)
	if err != nil {
		return err
	}
	if err := errors.Join(
		os.WriteFile(usersPath, []byte(p.spec.Users), 0o600), // has password hashes
		os.WriteFile(configPath, config, 0o600),
	); err != nil {
		return err
	}
	if p.spec.Binary != "" {
		return runServer(p, configPath)
	}
	return runLocal(p, configPath)
}

// awaitStatus waits until nobody holds the file by which ClickHouse keeps others out of its folder. ClickHouse itself does not wait for it.
func (p *process) awaitStatus() {
	p.patiently(func() bool {
		f, err := os.Open(filepath.Join(p.dataDir(), "status"))
		if err != nil {
			return true // ClickHouse says what is wrong with it
		}
		defer f.Close()
		return !errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
	})
}

// runLocal runs clickhouse-local from the library until the parent goes. Its last statement counts the lines of
// standard input, so that it ends, and closes its tables, when that does.
func runLocal(p *process, configPath string) error {
	end, input, err := os.Pipe()
	if err != nil {
		return err
	}
	if err := dup2(int(end.Fd()), 0); err != nil {
		return fmt.Errorf("give ClickHouse its standard input: %w", err)
	}
	end.Close()
	listenHost, tcp, _ := net.SplitHostPort(p.spec.Addrs[0]) // the parent has checked them
	_, http, _ := net.SplitHostPort(p.spec.Addrs[1])
	ended := make(chan error, 1)
	go func() {
		ended <- clickhouseLocal(p.spec.Library,
			"--path", p.dataDir(), "--config-file", configPath,
			"--logger.log="+filepath.Join(p.spec.Dir, "server.log"), "--log-level=error",
			"--listen_host", listenHost, "--tcp_port", tcp, "--http_port", http,
			"--query", "SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP; SELECT count() FROM file('/dev/stdin', 'LineAsString', 'line String') FORMAT Null")
	}()
	p.report(report{State: stateListening, Addrs: p.spec.Addrs})
	select {
	case err := <-ended:
		if err == nil {
			err = errors.New("ended without being asked to")
		}
		return fmt.Errorf("clickhouse-local: %w", err)
	case <-p.parentGone:
	}
	input.Close()
	// It closes at once, unless a client keeps an idle connection open, which it waits for. What it has answered
	// is in the files by now, and it starts from them after any kind of end.
	select {
	case err := <-ended:
		return err
	case <-time.After(idleLimit):
		return nil
	}
}

// runServer runs `clickhouse server` and ends it when the parent goes.
func runServer(p *process, configPath string) error {
	runtime.LockOSThread() // the server is tied to the life of this thread, see dieWithParent
	cmd := exec.Command(p.spec.Binary, "server", "--config-file", configPath)
	cmd.Dir = p.spec.Dir
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = dieWithParent(syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return err
	}
	var exit error
	ended := make(chan struct{}) // closed after exit is set
	go func() {
		exit = cmd.Wait()
		close(ended)
	}()
	p.report(report{State: stateListening, Addrs: p.spec.Addrs})
	select {
	case <-ended:
		return fmt.Errorf("%s server ended by itself: %w", p.spec.Binary, exit)
	case <-p.parentGone:
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // fails only where it has just ended
	select {
	case <-ended:
	case <-time.After(orphanLimit - time.Second):
		_ = cmd.Process.Kill()
	}
	return nil
}

// serverXML is ClickHouse's configuration. clickhouse-local takes most of its settings from its arguments.
func serverXML(p *process, usersPath string) ([]byte, error) {
	type directories struct {
		Users string `xml:"users_xml>path"`
		Local string `xml:"local_directory>path"`
	}
	type logger struct {
		Level string `xml:"level,omitempty"`
		Log   string `xml:"log,omitempty"`
		Size  string `xml:"size"`
		Count int    `xml:"count"`
	}
	c := struct {
		XMLName     xml.Name     `xml:"clickhouse"`
		Logger      logger       `xml:"logger"`
		UsersConfig string       `xml:"users_config,omitempty"`
		Directories *directories `xml:"user_directories"`
		Path        string       `xml:"path,omitempty"`
		ListenHost  string       `xml:"listen_host,omitempty"`
		TCPPort     string       `xml:"tcp_port,omitempty"`
		HTTPPort    string       `xml:"http_port,omitempty"`
		Timezone    string       `xml:"timezone"`
	}{
		Logger:   logger{Size: "10M", Count: 1},
		Timezone: "UTC",
	}
	if p.spec.Binary == "" {
		c.UsersConfig = usersPath
	} else {
		c.Logger.Level, c.Logger.Log = "warning", filepath.Join(p.spec.Dir, "server.log")
		c.Directories = &directories{Users: usersPath, Local: filepath.Join(p.dataDir(), "access") + "/"}
		c.Path = p.dataDir() + "/"
		c.ListenHost, c.TCPPort, _ = net.SplitHostPort(p.spec.Addrs[0])
		_, c.HTTPPort, _ = net.SplitHostPort(p.spec.Addrs[1])
	}
	var out bytes.Buffer
	enc := xml.NewEncoder(&out)
	enc.Indent("", "  ")
	if err := enc.Encode(c); err != nil {
		return nil, err
	}
	return append(out.Bytes(), '\n'), nil
}

// clickhouseAnswers runs a query over HTTP and sees that the native port is open.
func clickhouseAnswers(ctx context.Context, addrs []string) error {
	if err := httpOK(ctx, "http://"+addrs[1]+"/?query="+url.QueryEscape("SELECT 1")); err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addrs[0])
	if err != nil {
		return err
	}
	return conn.Close()
}
