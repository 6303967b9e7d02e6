//go:build !linux

package embedded

import "syscall"

// dieWithParent can do nothing outside Linux: only a parent that ends in order ends its process.
func dieWithParent(syscall.Signal) *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// dup2 makes to another name of the open file from.
func dup2(from, to int) error { return syscall.Dup2(from, to) }
