package embedded

import "syscall"

// dieWithParent has the kernel send sig to a process when the thread that started it ends. The caller locks
// its goroutine to that thread for as long as the process should live.
func dieWithParent(sig syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: sig}
}

// dup2 makes to another name of the open file from.
func dup2(from, to int) error { return syscall.Dup3(from, to, 0) }
