package ingest_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/avon"
)

func gzipped(t testing.TB, content []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(content)
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLimitsOfARequest(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	list := func(n int) []byte {
		return []byte("[" + strings.TrimSuffix(strings.Repeat(`{"account":"1"},`, n), ",") + "]")
	}
	padded := func(n int) []byte { // a list of one item, n bytes long
		return append(bytes.Repeat([]byte(" "), n-len(list(1))), list(1)...)
	}
	item := func(n int) []byte {
		return fmt.Appendf(nil, `[{"account":"1"},{"account":"1","text":"%s"}]`, strings.Repeat("x", n))
	}
	for _, c := range []struct {
		name    string
		body    []byte
		headers string // "Name: value", one a line
		chunked bool
		status  int
		text    string // in the answer
	}{
		{name: "as many items as allowed", body: list(ingest.MaxItems), status: 200},
		{name: "one more item", body: list(ingest.MaxItems + 1), status: 413, text: "10000 items"},
		{name: "as long a body as allowed", body: padded(ingest.MaxBodyBytes), status: 200},
		{name: "the same in chunks", body: padded(ingest.MaxBodyBytes), chunked: true, status: 200},
		{name: "one more byte", body: padded(ingest.MaxBodyBytes + 1), status: 413, text: "bytes"},
		{name: "one more byte in chunks", body: padded(ingest.MaxBodyBytes + 1), chunked: true, status: 413},
		{name: "as long when unpacked", body: gzipped(t, padded(ingest.MaxBodyBytes)), headers: "Content-Encoding: gzip", status: 200},
		{name: "one more byte when unpacked", body: gzipped(t, padded(ingest.MaxBodyBytes+1)), headers: "Content-Encoding: gzip", status: 413},
		{name: "a small body that unpacks to much", body: gzipped(t, make([]byte, 200<<20)), headers: "Content-Encoding: gzip", status: 413},
		{name: "not gzip", body: list(1), headers: "Content-Encoding: gzip", status: 400},
		{name: "gzip cut short", body: gzipped(t, list(100))[:40], headers: "Content-Encoding: gzip", status: 400},
		{name: "another encoding", body: list(1), headers: "Content-Encoding: br", status: 415},
		{name: "an item of almost 1 MiB", body: item(1<<20 - 200), status: 200},
		{name: "an item over 1 MiB", body: item(1 << 20), status: 413, text: `"the item has more than 1048576 bytes when encoded","code":"too_large","index":1`},
		{name: "deep", body: bytes.Repeat([]byte("["), ingest.MaxDepth+1), status: 400},
		{name: "long headers", body: list(1), headers: "X-Long: " + strings.Repeat("x", 70<<10), status: 431},
		{name: "headers just below the limit", body: list(1), headers: "X-Long: " + strings.Repeat("x", 60<<10), status: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			var body io.Reader = bytes.NewReader(c.body)
			if c.chunked {
				body = io.MultiReader(body)
			}
			req, err := http.NewRequest(http.MethodPost, "http://"+s.Addr()+"/test", body)
			check(t, err)
			req.Header.Set("X-Api-Key", key)
			for line := range strings.Lines(c.headers) {
				name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				req.Header.Set(name, value)
			}
			res, err := http.DefaultClient.Do(req)
			check(t, err)
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			check(t, err)
			if len(text) > 300 {
				text = text[:300]
			}
			if res.StatusCode != c.status || !strings.Contains(string(text), c.text) {
				t.Errorf("status %d, want %d with %q: %s", res.StatusCode, c.status, c.text, text)
			}
		})
	}
	if got := metric(t, s, "counterfoil_ingest_bytes_in_flight"); got != "0" {
		t.Errorf("%s bytes are in flight afterwards", got)
	}
}

// Clients that pack every body say so of an empty one, too.
func TestAnEmptyBodyIsEmptyWhateverItsEncoding(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, nil)
	avon.New(s).Register(s.Mux())
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	for _, c := range []struct {
		path   string
		status int
		text   string // in the answer
	}{{avon.Path, 200, "{}"}, {"/v1/sales", 400, "it is empty"}} {
		for name, body := range map[string]io.Reader{"nothing": http.NoBody, "nothing in chunks": io.MultiReader(), "gzip of nothing": bytes.NewReader(gzipped(t, nil))} {
			req, err := http.NewRequest(http.MethodPost, "http://"+s.Addr()+c.path, body)
			check(t, err)
			req.Header = http.Header{"X-Api-Key": {key}, "Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}
			res, err := http.DefaultClient.Do(req)
			check(t, err)
			text, err := io.ReadAll(res.Body)
			check(t, errors.Join(err, res.Body.Close()))
			if res.StatusCode != c.status || !strings.Contains(string(text), c.text) {
				t.Errorf("%s, %s: status %d, want %d with %q: %s", c.path, name, res.StatusCode, c.status, c.text, text)
			}
		}
	}
}

func TestASlowClientHoldsLittleAndNotForLong(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, map[string]string{"BODY_TIMEOUT": "700ms"})
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	c, err := net.Dial("tcp", s.Addr())
	check(t, err)
	defer c.Close()
	fmt.Fprintf(c, "POST /test HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nContent-Length: 10000000\r\n\r\n[", key)
	time.Sleep(200 * time.Millisecond)
	if held := metric(t, s, "counterfoil_ingest_bytes_in_flight"); held != "65536" {
		t.Errorf("a body of which one byte has come holds %s bytes", held)
	}
	check(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	answer, err := io.ReadAll(c)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 400")) {
		t.Errorf("%v: %s", err, answer)
	}
	if held := metric(t, s, "counterfoil_ingest_bytes_in_flight"); held != "0" {
		t.Errorf("%s bytes are in flight afterwards", held)
	}
}

func TestSlashesMayBeDoubled(t *testing.T) {
	w := newWorld(t)
	w.judge(t)
	s := w.start(t, nil)
	key := w.keys.add(t, "demo", ingest.KeyOptions{})
	s.Mux().HandleFunc("/segments/{a}/{b}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.PathValue("a"), " ", r.PathValue("b")) })
	for path, want := range map[string]string{"//test": "", "/test": "", "///test": "", "/segments//a///b": "a b", "/segments/a%2F%2Fb/c": "a//b c"} {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(`[{"account":"1"}]`))
		r.Header.Set("X-Api-Key", key)
		answer := httptest.NewRecorder()
		s.Handler().ServeHTTP(answer, r)
		if answer.Code != 200 || want != "" && answer.Body.String() != want {
			t.Errorf("%s: %d %s", path, answer.Code, answer.Body)
		}
	}
}

func TestAPanicIs500WithoutInternals(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, nil)
	status, body, header := do(t, s, "GET", "/panic", "", nil)
	if status != 500 || bytes.Contains(body, []byte("secret")) || header.Get("Content-Type") != "application/problem+json" || header.Get("X-Request-Id") == "" {
		t.Errorf("%d %s %v", status, body, header)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	w := newWorld(t)
	s := w.start(t, nil)
	if status, _, _ := do(t, s, "GET", "/healthz", "", nil); status != 200 {
		t.Errorf("/healthz: %d", status)
	}
	if status, body, _ := do(t, s, "GET", "/readyz", "", nil); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if status, body, _ := do(t, s, "GET", "/metrics", "", nil); status != 200 || !bytes.Contains(body, []byte("counterfoil_ingest_")) {
		t.Errorf("/metrics: %d", status)
	}
}

func TestConfigurationNamesEveryProblemAtOnce(t *testing.T) {
	cfg := config(t, map[string]string{"REPLY_WAIT": "0s", "INGEST_PRODUCERS": "5", "INGEST_REPLY_PARTITIONS": "0", "INGEST_BYTE_BUDGET": "1", "TOKEN_SECRETS": "short"})
	_, err := ingest.New(cfg, ingest.Deps{Log: logger(t)})
	for _, name := range []string{"REPLY_WAIT", "INGEST_PRODUCERS", "INGEST_REPLY_PARTITIONS", "INGEST_BYTE_BUDGET", "TOKEN_SECRETS"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named: %v", name, err)
		}
	}
}

// depth is how deep valid JSON nests.
func depth(data []byte) (deepest int, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	at := 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			return deepest, nil
		}
		if err != nil {
			return 0, err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			at++
		case json.Delim('}'), json.Delim(']'):
			at--
		}
		deepest = max(deepest, at)
	}
}

func FuzzTooDeep(f *testing.F) {
	f.Add([]byte(`[{"a":"]}'","b":["\"["]}]`))
	f.Add(append(bytes.Repeat([]byte("["), ingest.MaxDepth), bytes.Repeat([]byte("]"), ingest.MaxDepth)...))
	f.Add(append(bytes.Repeat([]byte("["), ingest.MaxDepth+1), bytes.Repeat([]byte("]"), ingest.MaxDepth+1)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := ingest.TooDeep(data)
		if d, err := depth(data); err == nil && json.Valid(data) && got != (d > ingest.MaxDepth) {
			t.Errorf("depth %d of %q: TooDeep is %t", d, data, got)
		}
	})
}
