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

// What would be ignored may be meant as a flag.
func TestArgumentsThatNobodyTakes(t *testing.T) {
	for _, command := range []string{"config", "migrate", "adopt", "doctor", "lag"} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}, []string{command, "kafka"}); code != 2 || out.Len() > 0 {
			t.Errorf("%s: code %d, out %q, %s", command, code, &out, &errs)
		}
	}
}
