package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestConfigNamesEveryProblem checks that one call shows all that is wrong, by the names of the variables and without a secret.
func TestConfigNamesEveryProblem(t *testing.T) {
	const secret = "hunter2-hunter2-hunter2"
	for _, c := range []struct {
		name    string
		environ []string
		want    []string
	}{
		{"texts of another type", []string{"LOG_LEVEL=LOUD", "REPLY_WAIT=abc", "TOPIC_PARTITIONS=many", "KAFKA_TLS=perhaps"}, []string{
			`LOG_LEVEL is "LOUD"`, `REPLY_WAIT is "abc"`, `TOPIC_PARTITIONS is "many"`, `KAFKA_TLS is "perhaps"`,
		}},
		{"values out of range, in several sections", []string{"KAFKA_SASL_MECHANISM=PLAIN", "TOPIC_PARTITIONS=-1", "INGEST_PRODUCERS=9"}, []string{
			"KAFKA_SASL_MECHANISM needs", "TOPIC_PARTITIONS is -1", "INGEST_PRODUCERS",
		}},
		{"both, and nothing is set", []string{"ROUND_TIME=soon", "TOPIC_REPLICATION=-2"}, []string{
			`ROUND_TIME is "soon"`, "TOPIC_REPLICATION is -2", "TOKEN_SECRETS is empty",
		}},
		{"addresses on which nobody can listen", []string{"HTTP_ADDR=nonsense", "OPS_ADDR=:99999"}, []string{`HTTP_ADDR is "nonsense"`, `OPS_ADDR is ":99999"`}},
		{"durations", []string{"SESSION_TIMEOUT=1ns", "SINK_SESSION_TIMEOUT=999ms", "SINK_WAIT_START=-1s", "SCHEMA_CONFIRM_AFTER=-1s", "SCHEMA_UNKNOWN_FOR=-2s"}, []string{
			"\nSESSION_TIMEOUT must be 1s or more, not 1ns", "SINK_SESSION_TIMEOUT 999ms is less than 1s", "SINK_WAIT_START must be 0 or more, not -1s",
			"SCHEMA_CONFIRM_AFTER must be 0 or more, not -1s", "SCHEMA_UNKNOWN_FOR must be 0 or more, not -2s",
		}},
		{"a setting of two roles", []string{"TRANSACTION_TIMEOUT=-3s"}, []string{"TRANSACTION_TIMEOUT must be more than 0, not -3s"}},
		{"files that are not there", []string{"KAFKA_TLS=true", "KAFKA_TLS_CA=/nonexistent/ca", "CLICKHOUSE_TLS=true", "CLICKHOUSE_TLS_CA_FILE=/nonexistent/ch"}, []string{
			"KAFKA_TLS_CA: open /nonexistent/ca", "CLICKHOUSE_TLS_CA_FILE: open /nonexistent/ch",
		}},
		{"a certificate of ours that is not there", []string{"KAFKA_TLS=true", "KAFKA_TLS_CERT=/nonexistent/cert", "KAFKA_TLS_KEY=/nonexistent/key"}, []string{
			"KAFKA_TLS_CERT or KAFKA_TLS_KEY: open /nonexistent/cert",
		}},
		{"a port", []string{"CLICKHOUSE_NODE_PORT=-4"}, []string{"CLICKHOUSE_NODE_PORT -4 is not between 0 and 65535"}},
		{"addresses of registries", []string{"SCHEMA_REGISTRY_URL=nonsense,http://registry:8081,ftp://registry,https://"}, []string{
			`SCHEMA_REGISTRY_URL has "nonsense"`, `SCHEMA_REGISTRY_URL has "ftp://registry"`, `SCHEMA_REGISTRY_URL has "https://"`,
		}},
	} {
		var out, errs bytes.Buffer
		environ := append([]string{"CLICKHOUSE_PASSWORD=" + secret, "KAFKA_SASL_PASSWORD=" + secret}, c.environ...)
		code := run(t.Context(), &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, environ: environ}, []string{"config"})
		if code != 1 {
			t.Errorf("%s: code %d", c.name, code)
		}
		for _, want := range c.want {
			if n := strings.Count(errs.String(), want); n != 1 {
				t.Errorf("%s: %q is there %d times in:\n%s", c.name, want, n, &errs)
			}
		}
		if strings.Contains(out.String()+errs.String(), secret) {
			t.Errorf("%s: a secret is printed", c.name)
		}
	}
}

// What is valid is said to be, and every variable that some command reads is listed.
func TestConfigListsAndPasses(t *testing.T) {
	var out, errs bytes.Buffer
	environ := []string{"TOKEN_SECRETS=x7Qp2mV9cT4kL8wZ", "HTTP_ADDR=:http", "OPS_ADDR=[::1]:0", "SESSION_TIMEOUT=1s", "SINK_SESSION_TIMEOUT=1s", "SINK_WAIT_START=0s", "SCHEMA_CONFIRM_AFTER=0s",
		"SCHEMA_REGISTRY_URL=https://one.example,http://127.0.0.1:8081/path", "CLICKHOUSE_NODE_PORT=9440", "LIBCHDB=/opt/libchdb.so"}
	code := run(t.Context(), &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, environ: environ}, []string{"config"})
	for _, want := range []string{"The configuration is valid.", "  LIBCHDB ", "= /opt/libchdb.so"} {
		if code != 0 || !strings.Contains(out.String(), want) {
			t.Errorf("code %d, %q is not in:\n%s%s", code, want, &out, &errs)
		}
	}
}

// What would be ignored may be meant as a flag.
func TestArgumentsThatNobodyTakes(t *testing.T) {
	for _, command := range []string{"config", "migrate", "adopt", "doctor", "lag"} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}, []string{command, "kafka"}); code != 2 || out.Len() > 0 {
			t.Errorf("%s: code %d, out %q, %s", command, code, &out, &errs)
		}
	}
}
