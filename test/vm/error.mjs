/** What a virtual machine may fail with. A command that fails in it is no failure of it. */
export class VmError extends Error {
  /**
   * @param {'ERR_VM_SETUP' | 'ERR_VM_TIMEOUT' | 'ERR_VM_PANIC' | 'ERR_VM_LOST'} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = 'VmError';
    this.code = code;
  }
}
